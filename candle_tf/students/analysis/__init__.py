"""What a student costs on the device, and whether its layers stay binary, before it is trained."""
