"""Models in a browser: a JSON API over HTTP, and one page that uses it and nothing else.

Who asks is a stranger: `guard` looks at a request before it is parsed, `decoding` opens pictures in a process of its
own, `turns` and `computing` have a bounded number wait. `answers` is what the models say, `app` puts it together.
"""
