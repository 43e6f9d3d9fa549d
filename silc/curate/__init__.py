"""The cleaner subset: score pairs, look at the scores, choose some of them."""
