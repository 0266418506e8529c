"""What is lost of an accuracy."""


def points_lost(before: float, after: float) -> float:
    """Give by how many points, of 100, an accuracy fell, less what floats add: from 0.915 to 0.91 it is 0.5."""
    return round(100 * (before - after), 9)
