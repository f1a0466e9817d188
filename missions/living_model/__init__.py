"""Mission B: the living model, online updates of the controller only."""
