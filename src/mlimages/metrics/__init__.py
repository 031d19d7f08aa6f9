"""Multi-label metrics, accumulated batch by batch in bounded memory."""
