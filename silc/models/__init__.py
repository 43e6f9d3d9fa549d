"""Batch in, features out: towers, distillation head, teacher."""
