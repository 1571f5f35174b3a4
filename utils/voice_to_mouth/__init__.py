"""From a voice to the motion of a mouth: the second system beside separation."""
