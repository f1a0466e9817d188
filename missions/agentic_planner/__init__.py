"""Mission A: a planner over skill experts against one fused adapter."""
