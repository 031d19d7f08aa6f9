"""Records to batches: reading, sampling, cropping, augmentation and the input pipeline."""
