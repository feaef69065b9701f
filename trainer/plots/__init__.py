"""Pictures for people: sheets of frames, and charts of figures; all PNG, all without a display."""
