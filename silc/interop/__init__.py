"""Import of other people's weights: a source becomes our towers, tokenizer and preprocessing, exactly or not at all."""
