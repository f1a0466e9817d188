"""One folder an adapter: config, layer, naive reference, README. None knows another."""
