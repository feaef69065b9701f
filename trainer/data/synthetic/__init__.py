"""Generated data: people walking through a scene, drawn in the layout of MARS."""
