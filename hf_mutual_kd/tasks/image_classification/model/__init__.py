"""The classifier that vision encoders get which transformers has no classifier for; a saved model brings this code."""
