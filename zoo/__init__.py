"""A reference zoo of vision networks and the Transformer; `zoo.run` builds a run from its config."""
