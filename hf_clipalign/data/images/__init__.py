"""Images from anywhere: folders, tables, data sets and streams behind one reader."""
