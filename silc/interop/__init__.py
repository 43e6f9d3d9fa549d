"""Other people's weights in: each source becomes our towers, tokenizer and preprocessing, exactly or not at all."""
