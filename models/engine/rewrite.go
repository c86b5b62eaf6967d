package engine
func (c *compiler) rewrite() {}
