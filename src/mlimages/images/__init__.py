"""Pictures of any kind: opened, checked, decoded to upright sRGB pixels, made smaller, and encoded as JPEG."""
