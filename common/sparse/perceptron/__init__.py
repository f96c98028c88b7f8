"""A perceptron over the features of every edge."""
