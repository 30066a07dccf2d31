"""HTML, SVG and tables of a terminal; knows no run."""
