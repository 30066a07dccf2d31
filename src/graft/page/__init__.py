"""HTML, SVG and terminal tables. Nothing here knows about runs."""
