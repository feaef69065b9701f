"""What makes a search run: sessions, attempts, and the code around Ray Tune."""
