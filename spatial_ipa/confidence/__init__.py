"""How far expression fixes position: ambiguity, novelty, error radii."""
