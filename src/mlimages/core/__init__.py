"""What every stage needs: parameters, errors, atomic publishing, resuming, progress and worker pools."""
