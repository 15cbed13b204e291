"""Where images come from: folders, lists, archives, TensorFlow Datasets, built-in sets."""
