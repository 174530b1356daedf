"""Pictures of rows: their files, opened safely, thumbnails and previews of them, and pictures that were uploaded."""
