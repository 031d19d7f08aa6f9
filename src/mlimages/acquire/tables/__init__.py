"""Converts tables with any columns, and lists whose labels are names, to lists in Tencent's format."""
