"""The VGG family with torchvision's names."""
