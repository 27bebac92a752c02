"""Examples of tasks in a Plone add-on; the README and the how-tos quote them."""
