"""CAT-Seg (Cho et al., CVPR 2024): costs between patches and class names, aggregated into open-vocabulary masks."""
