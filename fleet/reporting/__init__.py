"""What people read: the report of a launch, and two launches side by side."""
