"""Pictures in prompts: files of projectors (mmproj), what is made of a picture, and the vectors that go to a prompt."""
