"""One file a data set: ``--dataset x`` takes the VOCSegmentation (sub)class of ``x.py`` in this folder."""
