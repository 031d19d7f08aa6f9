"""Multi-label metrics, gathered batch by batch."""
