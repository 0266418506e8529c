"""A reference zoo of vision networks; `zoo.run` builds everything from a config."""
