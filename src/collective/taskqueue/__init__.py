"""Tasks that run after commit, as the person who asked for them."""
