"""Lists that are not in Tencent's format: tables of any columns, and lists whose labels are names."""
