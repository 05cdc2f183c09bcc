"""From annotations to a data set, and its checks; training never imports it."""
