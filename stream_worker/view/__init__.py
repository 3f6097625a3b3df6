"""The live page: a ward in the browser, a consumer of the topics like any other."""
