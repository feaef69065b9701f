"""What people read: terminal, tables, comparisons, exports and the report."""
