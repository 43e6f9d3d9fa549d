"""Raw pairs in, batches out: sources, crops, tokenizer, loader."""
