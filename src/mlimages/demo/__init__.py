"""The pictures of the demo, drawn as needed, and the server of its image hosts."""
