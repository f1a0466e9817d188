"""Mission C: does a gated safety branch outside the skill's span refuse better at no cost?"""
