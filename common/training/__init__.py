"""What trainings of all models share: callbacks, samplers, schedules, stages."""
