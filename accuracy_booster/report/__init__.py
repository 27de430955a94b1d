"""Pages of results: each is one HTML file that needs no network, in light and dark colours."""
