"""The screen: a web page with the live picture, its plane and the exam checklist.

Needs the extra `viewer`; nothing else in the package imports this.
"""
