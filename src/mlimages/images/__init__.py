"""Image files: check them, decode them to upright sRGB pixels, downscale them, and encode them as JPEG."""
