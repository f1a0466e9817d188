"""What runs in a worker process: lease, train, evaluate, hand over."""
