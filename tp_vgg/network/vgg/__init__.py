"""The VGG family uses torchvision's module names."""
