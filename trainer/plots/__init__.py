"""Pictures for people: sheets of frames, and charts of metrics; all PNG, all without a display."""
