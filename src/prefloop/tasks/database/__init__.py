"""Text-to-SQL tasks over the user's own databases: made from a schema, or of a published question set.

Where to look: ``make`` draws a task of a database (`grammar`) and ``imports.questions`` makes one of a published set;
both write a task folder (``model``: what it says, ``folder``: how it is read and written). ``add`` puts databases into
it, which are looked at (`source`) and varied (`variants`). `audit` says what of it can be asked, and ``task`` turns
that into prompts. ``specs`` says what counts as equal, ``claims`` what a plan says, ``prompting`` what stands before a
question, ``words`` how names are said.
"""
