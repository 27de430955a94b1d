"""Pages of results: one self-contained HTML file each, without network, in light and dark."""
