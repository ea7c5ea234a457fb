"""Video saliency: models that load from the Hub, metrics, clips, videos and data sets."""
